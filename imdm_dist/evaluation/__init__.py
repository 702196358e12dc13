"""What is measured on samples and models, and the reports of it."""
