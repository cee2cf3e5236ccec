"""What every long command is (job), and what jobs share: staging, record, locks, key file, tasks. No images."""
