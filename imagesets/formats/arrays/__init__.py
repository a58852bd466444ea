"""Arrays of numbers: IDX, NumPy's and MATLAB's files."""
