"""What nodes say to one another, byte for byte."""
