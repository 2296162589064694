"""What the model gets, as a page: pictures, masks, boxes, words, times."""
