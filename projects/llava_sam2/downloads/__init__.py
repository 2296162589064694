"""Downloads put into place: which files a dataset has, where they come from, what is missing."""
