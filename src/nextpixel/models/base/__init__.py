"""What the models share: the abstract classes and the bounds."""
