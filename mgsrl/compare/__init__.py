"""Many runs on equal terms: the cells (arm x seed) of a comparison, and running what is missing."""
