"""How the package is put together: who imports whom, what is registered, how long things are."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import mmprune
from mmprune import registry
from mmprune.registry import table

PACKAGE = Path(mmprune.__file__).parent
TOOLS = PACKAGE.parent / 'tools'

# In the direction in which data flows: each may import those before it.
STAGES = [
    *('trace', 'channels', 'layers', 'execution', 'deploy', 'compensation', 'supernet'),
    *('formats', 'plans', 'report', 'pruners', 'models', 'training', 'search', 'commands'),
]
# Modules that every stage may import, and that import no stage.
COMMON = {
    *('checkpoint', 'config', 'datafiles', 'dependencies', 'errors', 'fileio', 'registry'),
    *('schema', 'version', 'weights'),
    *('building', 'collector', 'lock', 'missing_data', 'randomness', 'renamed_configs', 'wrappers'),
}
# Beside the flow.
SIDE = {
    'bench': {*STAGES, 'cost', 'datasets', 'latency', 'zoo'},
    'importance': {'trace', 'channels'},
    'latency': {'trace', 'channels', 'layers', 'cost'},
    'cost': {'trace', 'channels', 'layers'},
    'datasets': set(),
    'door': set(STAGES[: STAGES.index('models')]),
    # The face for what other people add, and what theirs is checked by.
    'extend': {*STAGES, 'importance'} - {'commands'},
    'testing': set(STAGES[: STAGES.index('models')]),
    'zoo': {*STAGES, 'cost', 'importance'},
    '': {'door'},
}
# The engine works on any torch model; only what is about OpenMMLab's own may need these.
OPENMMLAB = {'mmcls', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'mmrazor', 'mim'}
MAY_NEED_OPENMMLAB = {'bench', 'datasets', 'dependencies', 'models', 'training', 'commands', 'zoo'}


def allowed(part):
    """What a part of the package may import of the package."""
    if part in COMMON:
        return COMMON
    if part in SIDE:
        return SIDE[part] | COMMON
    before = STAGES[: STAGES.index(part)]
    return {*before, *COMMON} | ({'cost', 'latency'} if 'layers' in before else set())


def part_of(path):
    first = path.relative_to(PACKAGE).parts[0]
    return '' if first == '__init__.py' else first.removesuffix('.py')


FILES = sorted(path for path in PACKAGE.rglob('*.py') if '.mim' not in path.parts)


def imports_of(path):
    """Dotted names of everything that a file imports, wherever it does."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: relative import in line {node.lineno}'
            for alias in node.names:
                yield f'{node.module}.{alias.name}'
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_in_one_direction(path):
    part = part_of(path)
    for name in imports_of(path):
        package, _, rest = name.partition('.')
        other = rest.partition('.')[0]
        if package == 'mmprune' and other in {part_of(file) for file in FILES}:
            assert other == part or other in allowed(part), f'{part} may not import {name}'
        if package in OPENMMLAB:
            assert part in MAY_NEED_OPENMMLAB, f'{part} may not need {package}'


def test_every_part_of_the_package_has_its_place():
    assert {part_of(path) for path in FILES} == {*STAGES, *COMMON, *SIDE}


def test_every_room_is_described():
    """In docs/architecture.md, each once; and CONTRIBUTING.md names rooms that exist."""
    rooms = sorted(path.parent.name for path in PACKAGE.glob('*/__init__.py'))
    text = (PACKAGE.parent / 'docs' / 'architecture.md').read_text(encoding='utf-8')
    table_of_rooms = text[text.index('| room |') : text.index('`mmprune/registry.py` lists')]
    first = [line.split('|')[1] for line in table_of_rooms.splitlines() if line.startswith('|')]
    assert sorted(re.findall(r'`mmprune/(\w+)`', ' '.join(first))) == rooms
    for name in re.findall(
        r'`(mmprune/[\w/]+)/`', (PACKAGE.parent / 'CONTRIBUTING.md').read_text()
    ):
        assert (PACKAGE.parent / name).is_dir(), name


def test_the_check_of_imports_finds_what_it_should(tmp_path):
    file = tmp_path / 'late.py'
    file.write_text(
        'def f():\n    from mmprune.commands.run import train\n    import mmcls.models\n'
    )
    assert list(imports_of(file)) == ['mmprune.commands.run.train', 'mmcls.models']
    assert 'commands' not in allowed('models')
    assert 'pruners' not in allowed('deploy')
    assert 'execution' not in allowed('importance')


def test_modules_import_each_other_in_no_circle():
    """What is imported for type hints alone counts too: it says who knows whom."""
    known = {path.relative_to(PACKAGE.parent).with_suffix('').as_posix(): path for path in FILES}
    modules = {name.replace('/', '.').removesuffix('.__init__'): p for name, p in known.items()}
    graph = {
        module: {
            other
            for name in imports_of(path)
            for other in (name, name.rpartition('.')[0])
            if other in modules and other != module and modules[other].name != '__init__.py'
        }
        for module, path in modules.items()
    }
    assert list(TopologicalSorter(graph).static_order())


# -- registries ------------------------------------------------------------------------

# Names of parsers without `Backward`.
CONTENTS = {
    'BACKWARD_PARSERS': """
        Abs Acos Acosh AdaptiveAvgPool2D AdaptiveAvgPool3D AdaptiveMaxPool2D AdaptiveMaxPool3D Add
        Addcdiv Addcmul Addmm Alias Amax Amin Angle AsStrided Asin Asinh Atan Atan2 Atanh Attention
        AvgPool2D AvgPool3D Baddbmm BatchNormImpl BatchNormWithUpdate BinaryCrossEntropy
        BinaryCrossEntropyWithLogits Bmm Cat Cdist Ceil Celu ChannelShuffle Chunk Clamp ClampMax
        ClampMin Clone Col2Im Compared Complex Conj ConjPhysical ConstantPadNd Contiguous
        ConvDepthwise2D ConvDepthwise3D Convolution ConvolutionOverrideable CopyBackwards CopySlices
        Copysign Cos Cosh CtcLoss CudnnBatchNorm CudnnConvolution CudnnConvolutionTranspose
        CudnnGridSampler Cummax Cummin Cumsum Deg2Rad Detach Digamma Div Dot Elu Embedding
        EmbeddingBag Erf Erfc Erfinv EuclideanDist Exp Exp2 Expand Expm1 FftC2C FftC2R FftR2C Filled
        Flatten Flip Floor Fmax Fmin Fmod Frac FractionalMaxPool2D FusedDropout Gather Gelu Glu
        GridSampler2D GridSampler3D GroupedMm Hardshrink Hardsigmoid Hardswish Hardtanh HuberLoss
        Hypot I0 Igamma Igammac Im2Col Index IndexAdd IndexCopy IndexFill IndexPut IndexPutImpl
        IndexReduce IndexSelect InstanceNorm Kept KlDiv Kthvalue Ldexp LeakyRelu Lerp Lgamma
        LinalgVectorNorm Log Log10 Log1P Log2 LogSigmoid LogSoftmax Logaddexp Logaddexp2
        Logcumsumexp Logit Logsumexp MaskedFill Max MaxPool1D MaxPool2DWithIndices
        MaxPool3DWithIndices MaxUnpool2D MaxUnpool3D Maximum Mean Min Minimum MiopenBatchNorm
        MiopenConvolution Mish MkldnnConvolution Mm Mode MseLoss Mul MultiMarginLoss
        MultilabelMarginLoss Mv Mvlgamma NanToNum NativeBatchNorm NativeBatchNormLegit
        NativeBatchNormLegitNoTraining NativeDropout NativeGroupNorm NativeLayerNorm Neg Nextafter
        NllLoss NllLoss2D NllLossNd NnpackSpatialConvolution Norm PackPaddedSequence
        PadPackedSequence Permute PixelShuffle PixelUnshuffle Polar Polygamma Pow PreluKernel Prod
        Rad2Deg Reciprocal Recurrent ReflectionPad1D ReflectionPad2D ReflectionPad3D Relu Relu6
        Remainder Repeat ReplicationPad1D ReplicationPad2D ReplicationPad3D Reshape ReshapeAlias
        RmsNorm Roll Round RreluWithNoise Rsqrt Rsub SafeSoftmax ScaledDotProductCudnnAttention
        ScaledDotProductEfficientAttention ScaledDotProductFlashAttention
        ScaledDotProductFlashAttentionForCpu ScaledDotProductFusedAttentionOverrideable Scatter
        ScatterAdd ScatterReduce Select Selu Sgn Sigmoid Sign Silu Sin Sinh Slice SlowConv2D
        SlowConv3D SmoothL1Loss SoftMarginLoss Softmax Softplus Softshrink Sort SpecialEntr
        SpecialErfcx SpecialI0E SpecialI1 SpecialI1E SpecialLogNdtr SpecialNdtri SpecialXlog1Py
        SpecialZeta Split SplitWithSizes Sqrt Squeeze Stack Std StdMean Stepwise Sub Sum T Tan Tanh
        ThnnConv2D Threshold ToCopy Topk Transpose Tril Trilinear Triu Trunc Unbind Unflatten Unfold
        UnsafeIndex UnsafeIndexPut UnsafeSplit UnsafeSplitWithSizes UnsafeView Unsqueeze
        UpsampleBicubic2D UpsampleBicubic2DAa UpsampleBilinear2D UpsampleBilinear2DAa
        UpsampleLinear1D UpsampleNearest1D UpsampleNearest2D UpsampleNearest3D
        UpsampleNearestExact2D UpsampleTrilinear3D Var VarMean Vdot View ViewAsComplex ViewAsReal
        WeightNorm Where Xlogy mmcv.BezierAlignFunction mmcv.CARAFEFunction mmcv.CARAFENaiveFunction
        mmcv.DeformConv2dFunction mmcv.DeformRoIPoolFunction mmcv.MaskedConv2dFunction
        mmcv.ModulatedDeformConv2dFunction mmcv.MultiScaleDeformableAttnFunction
        mmcv.PrRoIPoolFunction mmcv.RoIAlignFunction mmcv.RoIAlignRotatedFunction
        mmcv.RoIPoolFunction mmcv.RotatedFeatureAlignFunction mmcv.SigmoidFocalLossFunction
        mmcv.SoftmaxFocalLossFunction torch.BackwardHookFunction
    """,
    'CHANNEL_RULES': """
        addmm along as_strided attention batch_norm bilinear cat cdist channel_shuffle conv
        copy_slices deform_attention deform_conv distance dot elementwise embedding expand fft
        filled flip fold gather glu group_norm grouped_matmul index index_put kept layer_norm loss
        matmul mv pad permute pixel_shuffle pixel_unshuffle recurrent reduce regions repeat rms_norm
        roll rows scatter select slice softmax spatial spatial1d spatial3d split stack transpose
        triangle unbind unfold view view_as_complex view_as_real weight_norm windows
    """,
    'SLICERS': """
        Bilinear Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d Embedding
        EmbeddingBag GroupNorm KeptOutputs LayerNorm Linear PReLU RMSNorm RNNBase RNNCellBase
        _BatchNorm _NormBase torch.nn.modules.activation.MultiheadAttention
    """,
    'DEMO_INPUTS': 'BaseDetector BasePoseEstimator BaseSegmentor ImageClassifier YOLODetector',
    'PRUNERS': 'ImportancePruner MarkovPruner NetworkSlimming RatioPruner StructurePruner',
    'IMPORTANCE': """
        APoZImportance ActivationImportance BNScaleImportance FPGMImportance FusionImportance
        GroupFisherImportance HessianImportance L1Importance L2Importance LAMPImportance
        LpImportance RandomImportance ResidualImportance TaylorImportance VarianceImportance
    """,
    'COMPENSATIONS': 'LeastSquares MeanFolding',
    'MODELS': """
        AutoSlim ChannelListModel ChannelWiseDivergence DeployedModel DistilledModel KLDivergence
        L2Loss MobileNetV1 SelfDistiller YOLOv5
    """,
    'MODEL_WRAPPERS': 'AutoSlimDDP',
    'LOOPS': """
        EvolutionSearchLoop GreedySearchLoop OptunaSearchLoop SearchLoop SubnetsTestLoop
        SubnetsValLoop
    """,
    'HOOKS': """
        DCFF DMCP ExactResume GroupLasso GrowingPenalty IterativePruning ProgressBarHook
        ScaleL1 SlimmingPenalty
    """,
    'DATASETS': 'Digits Mnist',
}


@pytest.mark.parametrize('name', CONTENTS)
def test_registries_hold_what_is_documented(name):
    """A change of what mmprune can do is a change of this list; what benchmarks add is theirs."""
    entries = table(getattr(registry, name))
    modules = {key: value.__module__ for key, value in entries.items()}
    ours = {key for key, module in modules.items() if module.startswith('mmprune.')}
    ours -= {key for key, module in modules.items() if module.startswith('mmprune.bench.')}
    if name == 'BACKWARD_PARSERS':
        ours = {key.removesuffix('Backward') for key in ours}
    assert ours == set(CONTENTS[name].split())


def test_every_registry_is_pinned():
    names = {n for n, value in vars(registry).items() if isinstance(value, registry.Registry)}
    assert {n for n in names if not n.startswith('MMENGINE')} == CONTENTS.keys()


# -- sizes -----------------------------------------------------------------------------


def code_lines(function):
    """Lines of a function, its docstring left out."""
    first = function.body[0]
    has_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    docstring = first.end_lineno - first.lineno + 1 if has_docstring else 0
    return function.end_lineno - function.lineno + 1 - docstring


@pytest.mark.parametrize(
    'path', [*FILES, *sorted(TOOLS.glob('*.py'))], ids=lambda path: '/'.join(path.parts[-2:])
)
def test_files_and_functions_are_short(path):
    text = path.read_text(encoding='utf-8')
    assert text.count('\n') <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert code_lines(node) <= 60, f'{node.name} in line {node.lineno}'


def test_tools_call_one_function_of_the_package():
    for path in TOOLS.glob('*.py'):
        names = [n for n in imports_of(path) if n.startswith('mmprune.')]
        parts = {name.split('.')[1] for name in names}
        assert parts <= {'bench', 'commands', 'errors', 'zoo', 'version'}, f'{path.name}: {names}'
