"""Where to measure: body, tissues, spheres, label volumes, contours."""
