//! Sessions that stream, byte for byte as the node itself: what RESP2 subscribers may ask and what RESP3 ones may, what
//! MULTI changes when it is executed, how RESET and QUIT end it, and every type of RESP3.

use anyhow::Result;
use testkit::{Client, Cluster, Flavor, Proxy, on_each_server};

use super::support::{before, same_batch};

on_each_server! {
    fn streams_are_as_the_nodes_own(flavor: Flavor) -> Result<()> {
        let cluster = Cluster::builder(flavor)
            .nodes(1)
            .sentinels(1)
            .node_config("enable-debug-command yes")
            .start()?;
        let proxy = before(&cluster)?;
        for (replies, script) in RESP2 {
            let (mut plain, mut proxied) = both(&cluster, &proxy)?;
            same_batch(&mut plain, &mut proxied, script, *replies)?;
        }
        for (replies, script) in RESP3 {
            let (mut plain, mut proxied) = both(&cluster, &proxy)?;
            plain.command(&["HELLO", "3"])?;
            proxied.command(&["HELLO", "3"])?;
            same_batch(&mut plain, &mut proxied, script, *replies)?;
        }
        for typed in TYPES {
            let script = format!("DEBUG PROTOCOL {typed}\nPING");
            let (mut plain, mut proxied) = both(&cluster, &proxy)?;
            same_batch(&mut plain, &mut proxied, &script, 2)?;
            plain.command(&["HELLO", "3"])?;
            proxied.command(&["HELLO", "3"])?;
            let replies = if *typed == "push" { 3 } else { 2 };
            same_batch(&mut plain, &mut proxied, &script, replies)?;
            same_batch(&mut plain, &mut proxied, &format!("SUBSCRIBE c\n{script}"), replies + 1)?;
        }
        Ok(())
    }
}

const TYPES: &[&str] = &[
    "string", "integer", "double", "null", "array", "set", "map", "attrib", "push", "verbatim", "true",
    "false", "bignum",
];

/// How many frames answer each script.
const RESP2: &[(usize, &str)] = &[
    (
        9,
        "SUBSCRIBE a b\nGET x\nPING\nPING hi\nPSUBSCRIBE c*\nCLIENT ID\nSELECT 1\nMULTI",
    ),
    (5, "SUBSCRIBE a\nRESET\nSET x 1\nGET x\nCLIENT GETNAME"),
    (2, "SUBSCRIBE a\nQUIT"),
    (6, "MULTI\nSET x 5\nSUBSCRIBE a\nEXEC\nPING\nGET x"),
    (8, "MULTI\nSUBSCRIBE a b\nGET x\nEXEC\nPING\nRESET\nGET x"),
    (5, "MULTI\nSUBSCRIBE a\nDISCARD\nGET x\nPING"),
    (
        9,
        "MULTI\nSUBSCRIBE\nEXEC\nMULTI\nUNSUBSCRIBE\nPUNSUBSCRIBE p\nEXEC\nPING\nGET x",
    ),
    (
        6,
        "MULTI\nMONITOR\nCLIENT TRACKING ON\nEXEC\nPING\nCLIENT GETNAME",
    ),
    (6, "MULTI\nSYNC\nEXEC\nMULTI\nPSYNC ? -1\nEXEC"),
    (7, "MULTI\nSELECT 3\nSET x 3\nSUBSCRIBE a\nEXEC\nRESET\nGET x"),
    (6, "MULTI\nCLIENT SETNAME me\nAUTH x\nEXEC\nCLIENT GETNAME\nPING"),
    (4, "WATCH x\nMULTI\nSUBSCRIBE a\nEXEC"),
    (
        5,
        "CLIENT TRACKING ON\nGET x\nCLIENT TRACKINGINFO\nCLIENT GETREDIR\nCLIENT TRACKING OFF",
    ),
];

const RESP3: &[(usize, &str)] = &[
    (
        8,
        "SUBSCRIBE a\nGET x\nPING\nPING hi\nSELECT 1\nSET q 1\nCLIENT SETNAME me\nCLIENT GETNAME",
    ),
    (
        7,
        "SUBSCRIBE d\nPUBLISH d 1\nRPUSH l message a b\nLRANGE l 0 -1\nDEL l\nUNSUBSCRIBE d",
    ),
    (
        5,
        "RPUSH m subscribe a b\nSUBSCRIBE a\nLRANGE m 0 -1\nPING\nDEL m",
    ),
    (
        9,
        "SUBSCRIBE e\nMULTI\nPING abc\nPUBLISH e 1\nPUBLISH e 2\nEXEC\nUNSUBSCRIBE e",
    ),
    (
        11,
        "SUBSCRIBE a\nMULTI\nSET x 5\nUNSUBSCRIBE a\nSUBSCRIBE b f\nEXEC\nPUBLISH f 1\nUNSUBSCRIBE b f",
    ),
    (4, "SUBSCRIBE a\nRESET\nGET nosuch\nPING"),
    (5, "SUBSCRIBE a\nUNSUBSCRIBE a\nGET nosuch\nMULTI\nEXEC"),
    (
        6,
        "CLIENT TRACKING ON NOLOOP\nCLIENT TRACKINGINFO\nCLIENT GETREDIR\nGET nosuch\nCLIENT TRACKING OFF\nCLIENT TRACKINGINFO",
    ),
    (
        6,
        "CLIENT CACHING YES\nCLIENT TRACKING ON OPTIN\nCLIENT CACHING NO\nCLIENT CACHING YES\nGET nosuch\nSET x 2",
    ),
    (
        4,
        "CLIENT TRACKING ON BCAST PREFIX a\nCLIENT TRACKING ON BCAST PREFIX ab\nCLIENT TRACKINGINFO\nCLIENT TRACKING ON",
    ),
];

fn both(cluster: &Cluster, proxy: &Proxy) -> Result<(Client, Client)> {
    let mut plain = cluster.primary()?.client()?;
    plain.command(&["FLUSHALL"])?;
    Ok((plain, proxy.client()?))
}
