"""From a body to images, for each content type.

- `multipart.py`: bodies that are an image file or a form of them; `image_files.py`: decoding of one file
- `image_warnings.py`: images that look blank, scaled or inverted
- `json_images.py`: `{"instances": [...]}`; `json_documents.py`, `json_pieces.py`: JSON within limits, and in pieces
- `raw_pixels.py`: `application/octet-stream` and NumPy's `.npy`; `octet_types.py`: octets that are no pixels of uint8
- `media_types.py`: what is accepted, and what a body is that was declared as something else
"""
