"""Image files to RGB pictures, and pictures to the pixels that an image encoder takes."""
