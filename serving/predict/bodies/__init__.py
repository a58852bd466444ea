"""From a request's body to images, for each content type.

- `multipart.py`: image files, alone or in a form; `image_files.py`: one of them
- `json_images.py`: `{"instances": [...]}`; `json_documents.py`, `json_pieces.py`: JSON within limits, in pieces
- `raw_pixels.py`: `application/octet-stream` and NumPy's `.npy`
"""
