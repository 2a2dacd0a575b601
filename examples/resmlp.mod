# A residual MLP over images, as in modula: blocks of linear layers with the absolute value.

from std.nn import residual

param width = 128
param blocks = 3
param block_depth = 2
param blocks_mass = 1/4
param classes = 10
param channels = 1
param size = 28

input images: float[batch, channels, size, size]

def layer = MeanSubtract @ Abs @ Linear(width) @ RMSDivide
def branch = layer ** block_depth
def block = branch if blocks == 1 else residual(branch, blocks)

model ResMLP = Linear(classes) @ tare(block ** blocks, blocks_mass) @ Linear(width) @ Flatten
