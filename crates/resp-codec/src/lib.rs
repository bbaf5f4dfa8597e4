//! resp-codec
