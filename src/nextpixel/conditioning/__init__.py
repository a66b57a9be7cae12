"""What a model can be conditioned on besides a class, for each image of a data set."""
