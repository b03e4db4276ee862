"""What is changed: where (choices), into what (operations, removals), as a grid of cells."""
