"""What a board needs on its card, as a tar."""
