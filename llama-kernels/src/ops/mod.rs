//! Serial kernels: pure functions of read-only views, generic over the instruction set.

pub(crate) mod attention;
pub(crate) mod cache;
pub(crate) mod dots;
pub(crate) mod fixed_point;
pub(crate) mod floats;
pub(crate) mod gemm;
pub(crate) mod gemv;
pub(crate) mod pack;
pub(crate) mod place;
pub(crate) mod push;
pub(crate) mod quantize;
pub(crate) mod rmsnorm;
pub(crate) mod rope;
pub(crate) mod rows;
pub(crate) mod shift;
pub(crate) mod shorts;
pub(crate) mod softmax;
pub(crate) mod swiglu;
