"""What is known of a prepared network, as data, as text and as a picture."""
