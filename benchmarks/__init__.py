"""Speed and memory of the parts, at the sizes of the papers. `make bench` runs all."""
