//! Where the backup OS shows what it does while it holds the network: an address of its own, and who is sent messages from
//! there. Two settings, each a word of [`crate::control::ControlWords`]; 0 is off, which is the default.

use core::fmt;
use core::net::Ipv4Addr;

/// First bit of the length of the prefix, and of the port, in a word; the address is below it.
const UPPER: u32 = 32;
/// Lengths of a prefix that leave room for somebody else in the network.
const PREFIXES: core::ops::RangeInclusive<u8> = 8..=31;
/// Where messages go unless another port is given (RFC 5426, 3.3).
const SYSLOG: u16 = 514;

/// What is wrong with a value, and what would be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrongValue {
    /// It is no address.
    Address,
    /// It has no length of a prefix, or one out of range.
    Prefix,
    /// It is no port.
    Port,
    /// No single machine can have the address.
    NotUnicast,
    /// It is the address of a network, or the broadcast address of one.
    OfTheNetwork,
}

impl fmt::Display for WrongValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Address => "is no IPv4 address: give one as 192.0.2.7, or `off`",
            Self::Prefix => {
                "needs the length of its network's prefix, 8 to 31: give an address as 192.0.2.7/24, or `off`"
            }
            Self::Port => "has no port that can be sent to: give one of 1 to 65535 as 192.0.2.7:514, or none for 514",
            Self::NotUnicast => {
                "is no address of a single machine (multicast, broadcast, loopback, or no network's): give another one"
            }
            Self::OfTheNetwork => "is the address of its whole network, first or last: give one in between",
        })
    }
}

impl core::error::Error for WrongValue {}

/// Whether a machine can have an address, and be reached there from outside.
fn is_unicast(address: Ipv4Addr) -> bool {
    // 0.0.0.0/8 is "this network" (RFC 1122, 3.2.1.3), 240.0.0.0/4 reserved (RFC 1112, 4).
    let first = address.octets()[0];
    first != 0 && first < 224 && !address.is_loopback()
}

/// The address of the backup OS, with its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusAddress {
    /// The address.
    pub address: Ipv4Addr,
    /// Bits of the network's part.
    pub prefix: u8,
}

impl StatusAddress {
    /// Its name for `orthros-ctl config` and the loader.
    pub const NAME: &str = "status-address";

    /// An address that the machine could have in this network.
    ///
    /// # Errors
    /// [`WrongValue`].
    pub fn new(address: Ipv4Addr, prefix: u8) -> Result<Self, WrongValue> {
        if !PREFIXES.contains(&prefix) {
            return Err(WrongValue::Prefix);
        }
        if !is_unicast(address) {
            return Err(WrongValue::NotUnicast);
        }
        let host = u32::MAX >> prefix;
        // A network of two has neither (RFC 3021).
        if prefix < 31 && [0, host].contains(&(address.to_bits() & host)) {
            return Err(WrongValue::OfTheNetwork);
        }
        Ok(Self { address, prefix })
    }

    /// Reads `ADDRESS/PREFIX`.
    ///
    /// # Errors
    /// [`WrongValue`].
    pub fn parse(text: &str) -> Result<Self, WrongValue> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, prefix.parse().ok()),
            None => (text, None),
        };
        let address = address.parse().map_err(|_| WrongValue::Address)?;
        Self::new(address, prefix.ok_or(WrongValue::Prefix)?)
    }

    /// The word for a value as it is written: `off`, `default`, or an address.
    ///
    /// # Errors
    /// [`WrongValue`].
    pub fn word(text: &str) -> Result<u64, WrongValue> {
        word(text, |text| Self::parse(text).map(Self::to_word))
    }

    fn to_word(self) -> u64 {
        u64::from(self.address.to_bits()) | u64::from(self.prefix) << UPPER
    }

    /// The address in a stored word; `None` if it is off, or none that can be.
    pub fn from_word(word: u64) -> Option<Self> {
        let prefix = u8::try_from(word >> UPPER).ok()?;
        Self::new(Ipv4Addr::from_bits(word as u32), prefix).ok()
    }

    /// Whether an address is in the network of this one.
    pub fn is_near(self, address: Ipv4Addr) -> bool {
        (self.address.to_bits() ^ address.to_bits()) >> (u32::BITS - u32::from(self.prefix)) == 0
    }
}

impl fmt::Display for StatusAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// Who is sent messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogTarget {
    /// The address.
    pub address: Ipv4Addr,
    /// The port of UDP.
    pub port: u16,
}

impl LogTarget {
    /// Its name for `orthros-ctl config` and the loader.
    pub const NAME: &str = "log-target";

    /// A port of a machine.
    ///
    /// # Errors
    /// [`WrongValue`].
    pub fn new(address: Ipv4Addr, port: u16) -> Result<Self, WrongValue> {
        match (is_unicast(address), port) {
            (false, _) => Err(WrongValue::NotUnicast),
            (true, 0) => Err(WrongValue::Port),
            (true, port) => Ok(Self { address, port }),
        }
    }

    /// Reads `ADDRESS` or `ADDRESS:PORT`.
    ///
    /// # Errors
    /// [`WrongValue`].
    pub fn parse(text: &str) -> Result<Self, WrongValue> {
        let (address, port) = match text.split_once(':') {
            Some((address, port)) => (address, port.parse().ok()),
            None => (text, Some(SYSLOG)),
        };
        let address = address.parse().map_err(|_| WrongValue::Address)?;
        Self::new(address, port.ok_or(WrongValue::Port)?)
    }

    /// The word for a value as it is written: `off`, `default`, or an address.
    ///
    /// # Errors
    /// [`WrongValue`].
    pub fn word(text: &str) -> Result<u64, WrongValue> {
        word(text, |text| Self::parse(text).map(Self::to_word))
    }

    fn to_word(self) -> u64 {
        u64::from(self.address.to_bits()) | u64::from(self.port) << UPPER
    }

    /// The target in a stored word; `None` if it is off, or none that can be.
    pub fn from_word(word: u64) -> Option<Self> {
        let port = u16::try_from(word >> UPPER).ok()?;
        Self::new(Ipv4Addr::from_bits(word as u32), port).ok()
    }
}

impl fmt::Display for LogTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.address, self.port)
    }
}

fn word(text: &str, read: impl Fn(&str) -> Result<u64, WrongValue>) -> Result<u64, WrongValue> {
    match text {
        "off" | "default" => Ok(0),
        text => read(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn an_address_comes_back_from_its_word() {
        for text in ["10.0.2.16/24", "192.0.2.1/31", "192.0.2.0/31", "223.255.255.254/8"] {
            let word = StatusAddress::word(text).unwrap();
            assert_eq!(StatusAddress::from_word(word).unwrap().to_string(), text);
        }
        assert_eq!(StatusAddress::word("10.0.2.16/24"), Ok(24 << 32 | 0x0A00_0210));
        for text in ["off", "default"] {
            assert_eq!((StatusAddress::word(text), LogTarget::word(text)), (Ok(0), Ok(0)));
        }
        assert_eq!((StatusAddress::from_word(0), LogTarget::from_word(0)), (None, None));
        let target = LogTarget::word("10.0.2.2").unwrap();
        assert_eq!(target, LogTarget::word("10.0.2.2:514").unwrap());
        assert_eq!(LogTarget::from_word(target).unwrap().to_string(), "10.0.2.2:514");
    }

    #[test]
    fn what_nobody_can_have_is_refused() {
        for (text, wrong) in [
            ("", WrongValue::Address),
            ("on", WrongValue::Address),
            ("10.0.2/24", WrongValue::Address),
            ("fe80::1/64", WrongValue::Address),
            ("10.0.2.16", WrongValue::Prefix),
            ("10.0.2.16/", WrongValue::Prefix),
            ("10.0.2.16/7", WrongValue::Prefix),
            ("10.0.2.16/32", WrongValue::Prefix),
            ("10.0.2.16/+", WrongValue::Prefix),
            ("0.0.0.1/8", WrongValue::NotUnicast),
            ("127.0.0.2/8", WrongValue::NotUnicast),
            ("224.0.0.1/24", WrongValue::NotUnicast),
            ("255.255.255.255/24", WrongValue::NotUnicast),
            ("10.0.2.0/24", WrongValue::OfTheNetwork),
            ("10.0.2.255/24", WrongValue::OfTheNetwork),
        ] {
            assert_eq!(StatusAddress::word(text), Err(wrong), "{text}");
        }
        for (text, wrong) in [
            ("loghost", WrongValue::Address),
            ("10.0.2.2:0", WrongValue::Port),
            ("10.0.2.2:", WrongValue::Port),
            ("10.0.2.2:65536", WrongValue::Port),
            ("239.0.0.1:514", WrongValue::NotUnicast),
        ] {
            assert_eq!(LogTarget::word(text), Err(wrong), "{text}");
        }
        // A word that somebody has written over.
        for word in [u64::MAX, 0x0A00_0210, 24 << 32, 64 << 32 | 0x0A00_0210] {
            assert_eq!(StatusAddress::from_word(word), None, "{word:#x}");
        }
        for word in [u64::MAX, 0x0A00_0202, 514 << 32, 1 << 48 | 0x0A00_0202] {
            assert_eq!(LogTarget::from_word(word), None, "{word:#x}");
        }
    }

    #[test]
    fn neighbours_share_the_prefix() {
        let own = StatusAddress::parse("10.0.2.16/24").unwrap();
        assert!(own.is_near(Ipv4Addr::new(10, 0, 2, 255)));
        assert!(!own.is_near(Ipv4Addr::new(10, 0, 3, 16)));
    }
}
