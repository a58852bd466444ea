"""From a body to images, for each content type.

- `multipart.py`: bodies that are an image file or a form of them; `image_files.py`: decoding of one file
- `json_images.py`: `{"instances": [...]}`; `json_documents.py`, `json_pieces.py`: JSON within limits, and in pieces
- `raw_pixels.py`: `application/octet-stream` and NumPy's `.npy`
"""
