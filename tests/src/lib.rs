//! The test kit: what the kernels and the model are judged by.
//!
//! - [`oracle`] defines each operation in f64, to be read;
//! - [`rope`] does so for the rotation, which has the most variants;
//! - [`close`] derives how far an f32 implementation may be from it;
//! - [`shapes`] lists the sizes that break kernels, and makes data for them;
//! - [`naive`] is a whole transformer in f64, straight from the paper.

pub mod close;
pub mod naive;
pub mod oracle;
pub mod rope;
pub mod shapes;
