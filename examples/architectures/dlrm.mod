# DLRM: dense features through an MLP, one table for each category, products of all pairs, an MLP.
param d = 16

input dense: float[batch, 13]
input user: int[batch] < 1000
input item: int[batch] < 500
input place: int[batch] < 50

def linear(n) = Bias @ Linear(n)
def dot(i, j) = d * Mean(-1, keepdim = true) @ (Select(i) * Select(j))
def pairs = Concat @ (Select(0), dot(0, 1), dot(0, 2), dot(0, 3), dot(1, 2), dot(1, 3), dot(2, 3))
def bottom = ReLU @ linear(d) @ ReLU @ linear(32)

model DLRM = linear(1) @ ReLU @ linear(32) @ pairs
           @ (bottom @ dense, Embed(1000, d) @ user, Embed(500, d) @ item, Embed(50, d) @ place)
