def normalize(x,p=2): return x
