"""What `predict` found, for any outputs and any size of a set: written batch by batch, in the order of the data."""
