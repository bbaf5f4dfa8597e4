//! Libraries of other languages: the programmes are beside this file, in the folders `python` and `node`.

use anyhow::Result;
use testkit::{Flavor, Runtime, on_each_server};

use super::programme::{Programme, fail_over, lab, left_no_trace};

on_each_server! {
    fn redis_py(flavor: Flavor) -> Result<()> {
        works(flavor, Runtime::Python, "redis_py.py")
    }

    fn redis_py_asyncio(flavor: Flavor) -> Result<()> {
        works(flavor, Runtime::Python, "redis_py_asyncio.py")
    }

    fn ioredis(flavor: Flavor) -> Result<()> {
        works(flavor, Runtime::Node, "ioredis.js")
    }

    fn node_redis(flavor: Flavor) -> Result<()> {
        works(flavor, Runtime::Node, "node_redis.js")
    }
}

fn works(flavor: Flavor, runtime: Runtime, name: &str) -> Result<()> {
    if !runtime.runs_here() {
        return Ok(());
    }
    let (cluster, proxy) = lab(flavor)?;
    let port = proxy.address().port().to_string();
    let mut programme = Programme::start(runtime.programme(name).arg(port))?;
    programme.says("failover")?;
    fail_over(&cluster, proxy.address())?;
    programme.tell("over")?;
    programme.finish()?;
    left_no_trace(&proxy)
}
