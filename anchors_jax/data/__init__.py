"""Images with objects: readers, transforms and batches, in numpy."""
