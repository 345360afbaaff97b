def pool(): pass
