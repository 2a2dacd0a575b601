# A graph convolutional network: each node reads its neighbours, weighed by their degrees.
param classes = 7

input x: float[nodes, 16]
input edges: int[2, n] < nodes

def layer(out) = Bias @ Aggregate("gcn") @ (Linear(out), edges)

model GCN = layer(classes) @ ReLU @ layer(16) @ x
