"""What the dataset is: its diagnoses, its metadata table, its images, where it comes from."""
