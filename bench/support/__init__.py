"""Code that benches and tests share; it imports no test and no package that only tests install.

`processes` starts services and `management` queries their management port; `models` publishes small bundles; `runs` are
small training runs and `jobs` small scoring jobs; `pictures` are image files written by libraries, `handmade` files
written from the specifications, `worst` the files that cost a decoder most; `options` is the benches' command line.
"""
