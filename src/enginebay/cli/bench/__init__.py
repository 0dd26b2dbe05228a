"""`enginebay bench`: one file for each thing that its flags ask for."""
