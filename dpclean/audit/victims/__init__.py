"""Who is attacked: what learns from the images, frozen or from scratch."""
