"""Where a network looks and what its layers make of an image: pure functions on tensors."""
