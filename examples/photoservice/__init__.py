"""A photo service: albums, uploads, search by words and by picture, with warmclip as its model."""
