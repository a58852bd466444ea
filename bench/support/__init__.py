"""What benches and tests share: nothing here knows a test, nor a package that only tests install.

`processes` starts real services and `management` asks their management port; `models` publishes small bundles; `runs`
are small training runs and `jobs` small scoring jobs; `pictures` are image files by libraries, `handmade` by the
specifications' letter, and `worst` those that cost a decoder most.
"""
