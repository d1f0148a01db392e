"""The heads of a layer, from one product of its inputs: norms, gates and the scan."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from plstm_graph.dag import LineGraphDAG
from plstm_graph.kernels.cost import Backend
from plstm_graph.kernels.cpu import HeadsForward, cpu_heads_backward, cpu_heads_forward
from plstm_graph.kernels.gates import Gates, gates_of
from plstm_graph.kernels.layout import HeadLayout
from plstm_graph.kernels.op import stm
from plstm_graph.kernels.scan import is_transformed, is_watched


class HeadInputs(NamedTuple):
    """What the scan of a layer is given."""

    query: Tensor  #: [N, H, K], normed and divided by √K, float32 or better
    key: Tensor  #: [N, H, K], normed
    value: Tensor  #: [N, H, K]
    direct: Tensor  #: [N, H]
    gates: list[Gates]  #: of every direction; those of heads in D-mode leave lines out


def normed_heads(
    projected: Tensor,
    edge_logits: Tensor | None,
    dag: LineGraphDAG,
    layout: HeadLayout,
    backend: Backend = "auto",
) -> Tensor:
    r"""Do what :func:`scan_heads` does with :func:`head_inputs`.

    On a CPU all of it is compiled code, which reads the product and writes its gradient in one piece.

    Args:
        projected: [N, sum of ``layout.widths``].
        edge_logits: [C, 4·W·H] for the columns of edge_index, or ``None`` for none.
        dag: on the same device.
        layout: the heads.
        backend: see :func:`~plstm_graph.kernels.stm`.

    Returns:
        [N, H, K], in the dtype of ``projected``.

    Complexity: see :func:`~plstm_graph.kernels.stm`.
    """
    compiled = backend in ("auto", "cpu") and projected.device.type == "cpu"
    if not compiled or is_watched() or is_transformed():
        return scan_heads(head_inputs(projected, edge_logits, dag, layout), dag, backend)
    wide = in_float32(projected)
    logits = wide.new_empty(0, layout.edge_logits) if edge_logits is None else edge_logits.to(wide.dtype)
    return _Heads.apply(wide, logits, dag, layout).to(projected.dtype)


def head_inputs(
    projected: Tensor, edge_logits: Tensor | None, dag: LineGraphDAG, layout: HeadLayout
) -> HeadInputs:
    """Norm queries and keys, and make the gates; see :func:`normed_heads` for the arguments."""
    query, key, value, logits, direct = layout.split(projected)
    # The op answers in the query's dtype: float32 holds what half precision could not before a norm. In half
    # precision a gate that keeps 0.9997 would keep all, and a closed one have no share.
    return HeadInputs(
        rms_norm(query, layout.largest_input) * layout.head_dim**-0.5,
        rms_norm(key, layout.largest_input).to(value.dtype),
        value,
        in_float32(direct),
        gates_of(in_float32(logits), edge_logits, dag, layout),
    )


def scan_heads(inputs: HeadInputs, dag: LineGraphDAG, backend: Backend = "auto") -> Tensor:
    r"""What heads give: :math:`\eta(\mathrm{stm}(q, k, v, S, T, M, D))`, [N, H, K] in the dtype of values."""
    own, *reverse = inputs.gates
    hidden = stm(
        inputs.query, inputs.key, inputs.value, **own._asdict(), direct=inputs.direct, dag=dag,
        reverse=reverse[0] if reverse else None, backend=backend,
    )  # fmt: skip
    return rms_norm(hidden).to(inputs.value.dtype)


def rms_norm(heads: Tensor, largest: float = 1.0) -> Tensor:
    r"""Let no root mean square of a head exceed ``largest``; far smaller ones are left nearly alone.

    .. math:: \eta_r(h) = h / \sqrt{1 + \tfrac{1}{K r^2} \lVert h \rVert^2}

    Args:
        heads: [..., H, K].
        largest: r.

    Returns:
        The same shape, float32 or better.
    """
    return largest * F.rms_norm(in_float32(heads), heads.shape[-1:], eps=largest**2)


def in_float32(x: Tensor) -> Tensor:
    """Convert to float32, if it is not that or better."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class _Heads(torch.autograd.Function):
    """The compiled pass; derivatives of its derivatives are those of the composed one."""

    @staticmethod
    def forward(
        ctx: Any, projected: Tensor, edge_logits: Tensor, dag: LineGraphDAG, layout: HeadLayout
    ) -> Tensor:
        made = cpu_heads_forward(projected, edge_logits, dag, layout)
        ctx.dag, ctx.layout = dag, layout
        ctx.save_for_backward(projected, edge_logits, *made)
        return made.output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        projected, edge_logits, *made = ctx.saved_tensors
        # Autograd's own vmap, of is_grads_batched, is no transform of torch.func.
        batched = torch._C._functorch.is_legacy_batchedtensor(grad)
        if not (torch.is_grad_enabled() or is_transformed() or batched):
            inputs = (projected, edge_logits, ctx.dag, ctx.layout)
            return *cpu_heads_backward(grad, *inputs, HeadsForward(*made)), None, None

        def composed(projected: Tensor, edge_logits: Tensor) -> Tensor:
            logits = edge_logits if len(edge_logits) > 0 else None
            return scan_heads(head_inputs(projected, logits, ctx.dag, ctx.layout), ctx.dag)

        pull: Any = torch.func.vjp(composed, projected, edge_logits)[1]
        return *pull(grad), None, None
