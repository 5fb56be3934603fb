"""Write derived series: attributes, pixel values, encoding, identity."""
