"""Where training images come from: folders, tars, URLs and Hugging Face data sets."""
