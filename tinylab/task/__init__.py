"""From a file to prompt pairs as one model sees them."""
