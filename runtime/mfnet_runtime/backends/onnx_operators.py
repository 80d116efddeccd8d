"""The operators that a graph may hold: more than mfnet-export writes, so that other networks run.

All of ONNX's own domain. Left out are those that hold graphs (If, Loop, Scan), that make as many
numbers as a number in the file says (ConstantOfShape, Expand, Range, Tile), whose output has no
size beforehand (NonZero, Unique), that give other numbers each time (RandomNormal, Dropout while
training), and that read text or pictures (RegexFullMatch, ImageDecoder).
"""

from __future__ import annotations

OPERATORS = frozenset(
    # number by number
    "Abs Add Ceil Clip Cos Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid "
    "HardSwish LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mul Neg Not And Or PRelu Pow "
    "Reciprocal Relu Round Selu Sigmoid Sign Sin Softplus Softsign Sqrt Sub Sum Tanh Where Xor "
    "ThresholdedRelu "
    # neighbourhoods, products and norms
    "AveragePool BatchNormalization Conv ConvTranspose Einsum Gemm GlobalAveragePool GlobalMaxPool "
    "GroupNormalization InstanceNormalization LRN LayerNormalization LogSoftmax MatMul MaxPool "
    "RMSNormalization Softmax Hardmax LpNormalization GridSample Attention "
    # along axes
    "ArgMax ArgMin CumSum ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin "
    "ReduceProd ReduceSum ReduceSumSquare TopK "
    # other places and shapes
    "Cast CastLike Concat Constant DepthToSpace Flatten Gather GatherElements GatherND Identity "
    "Pad Reshape Resize ReverseSequence ScatterElements ScatterND Shape Size Slice SpaceToDepth "
    "Split Squeeze Transpose Trilu Unsqueeze "
    # fewer bits
    "ConvInteger DequantizeLinear DynamicQuantizeLinear MatMulInteger QLinearConv QLinearMatMul "
    "QuantizeLinear".split()
)
