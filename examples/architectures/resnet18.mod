# ResNet-18: batch norm, shortcuts by a 1 x 1 convolution where the size changes.
param classes = 10
param width = 16

input images: float[batch, 3, 64, 64]

def basic(c, stride = 1) = ReLU @ (branch + shortcut)
  where
    branch = BatchNorm @ Conv2D(c) @ ReLU @ BatchNorm @ Conv2D(c, stride = stride)
    shortcut = Identity if stride == 1
               else BatchNorm @ Conv2D(c, kernel = 1, stride = stride, padding = 0)
def stage(c, stride) = basic(c) @ basic(c, stride)
def stem = MaxPool(3, 2, 1) @ ReLU @ BatchNorm @ Conv2D(width, kernel = 7, stride = 2, padding = 3)

model ResNet18 = Bias @ Linear(classes) @ Flatten @ AdaptiveAvgPool
               @ stage(8 * width, 2) @ stage(4 * width, 2) @ stage(2 * width, 2) @ stage(width, 1)
               @ stem
