"""MLflow's scoring server: `python mlflow_model.py DIRECTORY` saves the model, `mlflow models serve` serves it.

It takes JSON only: an image file is base64, pixels are numbers.
"""

import sys
from typing import Any

import classify
import mlflow
import numpy as np


class Classifier(mlflow.pyfunc.PythonModel):
    """Classifies base64 of image files, or `uint8[n, 28, 28]`."""

    def load_context(self, context: Any) -> None:
        """Load the model."""
        del context
        self.session = classify.open_session()

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        """Return the probabilities of each image."""
        del context, params
        if model_input.dtype.kind in "OU":
            images = np.concatenate([classify.from_base64(text) for text in model_input.ravel()])
        else:
            images = model_input.astype(np.uint8).reshape(-1, 28, 28)
        return classify.run(self.session, images)


if __name__ == "__main__":
    mlflow.pyfunc.save_model(sys.argv[1], python_model=Classifier(), code_paths=[classify.__file__])
