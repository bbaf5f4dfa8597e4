//! Where frames end. Both scanners resume where they stopped and never look at a byte of a body.

pub(crate) mod inline;
pub(crate) mod number;
mod opening;
mod reply;
mod request;

pub use opening::Opening;
pub use reply::ReplyScan;
pub use request::RequestScan;
