"""What a request says: composed, typed, and refused with every fault at once."""
