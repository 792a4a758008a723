"""Long runs that judge the whole: each is a package started with `python -m`."""
