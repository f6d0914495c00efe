"""What is compiled for the processor at hand: products, attention, and all that goes row by row."""
