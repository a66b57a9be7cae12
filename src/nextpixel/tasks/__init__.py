"""What a trained model is used for: restoration, variations, reconstruction."""
