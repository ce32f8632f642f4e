//! By which private endpoint of a cloud a connection came, where the PROXY header of the cloud's load balancer says so: for the lines
//! of its connections and requests. What clouds write differs; what is none of their ids is left out.

use tidegate_shared::proxy_header::Tlvs;

use crate::line;

/// See the module's head. At least one is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cloud {
    /// Of Amazon's VPC endpoint, such as `vpce-08d2bf15fac5001c9`.
    pub aws_vpce: Option<Box<str>>,
    /// Of Google's Private Service Connect connection.
    pub gcp_psc: Option<Box<str>>,
    /// Of Azure's private endpoint (LINKID).
    pub azure_link: Option<u32>,
}

/// The longest id that is shown; theirs have 22 letters.
const ID_MOST: usize = 64;

impl Cloud {
    /// What a header says of it, which is nothing for most.
    pub fn of(tlvs: &Tlvs) -> Option<Box<Self>> {
        if tlvs.is_empty() {
            return None;
        }
        // Letters, digits and hyphens, as it is read.
        let shown = |id: &str| id[..id.len().min(ID_MOST)].into();
        let cloud = Self {
            aws_vpce: tlvs.aws_vpc_endpoint().map(shown),
            // As text: readers of JSON take larger numbers for others than they are.
            gcp_psc: tlvs.gcp_psc_connection().map(|id| id.to_string().into()),
            azure_link: tlvs.azure_link(),
        };
        let none = cloud.aws_vpce.is_none() && cloud.gcp_psc.is_none();
        (!none || cloud.azure_link.is_some()).then(|| Box::new(cloud))
    }

    /// As a line for people has it.
    pub fn write(&self, out: &mut Vec<u8>) {
        let texts = [(" aws_vpce=", &self.aws_vpce), (" gcp_psc=", &self.gcp_psc)];
        for (name, id) in texts {
            if let Some(id) = id {
                out.extend_from_slice(name.as_bytes());
                line::plain(id, out);
            }
        }
        if let Some(id) = self.azure_link {
            out.extend_from_slice(b" azure_link=");
            line::number(id.into(), out);
        }
    }
}

/// Whose connection it is, as every line of it has it.
#[derive(Debug)]
pub struct Label {
    /// The visitor's address.
    pub address: Box<str>,
    /// Where it came through one.
    pub cloud: Option<Box<Cloud>>,
}

impl<T: ToString> From<T> for Label {
    fn from(address: T) -> Self {
        Self {
            address: address.to_string().into(),
            cloud: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_shared::proxy_header::{
        Ends, Pair, Parsed, TlvWriter, USUAL_MOST, parse, write_v2,
    };

    use super::*;

    fn read(written: &TlvWriter) -> Option<Box<Cloud>> {
        let end = "192.0.2.1:5".parse().unwrap();
        let header = write_v2(&Ends::Stream(Pair::new(end, end)), written).unwrap();
        match parse(&header, USUAL_MOST) {
            Ok(Parsed::Whole(header, _)) => Cloud::of(&header.tlvs),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_known_is_shown_and_no_more_of_it_than_has_room() {
        let mut written = TlvWriter::default();
        assert_eq!(read(&written), None);
        written.authority("a.test");
        assert_eq!(read(&written), None);
        written.aws_vpc_endpoint(&"a".repeat(200));
        written.gcp_psc_connection(u64::MAX).azure_link(7);
        let mut line = Vec::new();
        read(&written).unwrap().write(&mut line);
        let id = "a".repeat(ID_MOST);
        let shown = format!(" aws_vpce={id} gcp_psc=18446744073709551615 azure_link=7");
        assert_eq!(String::from_utf8(line).unwrap(), shown);
        // What would be another field, or another line, is no id.
        let mut odd = TlvWriter::default();
        odd.aws_vpc_endpoint("vpce-1 status=200\n");
        assert_eq!(read(&odd), None);
    }
}
