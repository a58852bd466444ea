"""Tables with a row for each image: CSV and Parquet."""
