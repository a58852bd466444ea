"""Tables with a row for each image: CSV and Parquet.

Imports go down only, in this order:

- `csv_files.py`; `parquet.py`, over `parquet_source.py`
- `pixel_table.py`: from a table with a column for each pixel to a source
- `pixel_columns.py`: which columns are the pixels, and which is the label
"""
