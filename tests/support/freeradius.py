"""A FreeRADIUS server of the test's own: on loopback, its whole configuration here."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tests.support.ports import free_port

INSTALL = "freeradius is missing; install it with: apt-get install -y freeradius"
SECRET = "shared by both"
PASSWORD = "clientPass"


class FreeRadius:
    """A started server; ``signs`` False: its answers have no Message-Authenticator, as those of old servers."""

    def __init__(self, *, signs: bool = True) -> None:
        program = shutil.which("freeradius") or shutil.which("freeradius", path="/usr/sbin")
        if program is None:
            pytest.fail(INSTALL)
        self.folder = Path(tempfile.mkdtemp(prefix="pkiserver-radius-"))
        self.port = free_port()
        sign = "update reply {\n Message-Authenticator := 0x00\n }" if signs else ""
        text = _CONFIG.replace("FOLDER", str(self.folder)).replace("PORT", str(self.port)).replace("SIGN", sign)
        (self.folder / "radiusd.conf").write_text(text)
        (self.folder / "users").write_text(_USERS)
        (self.folder / "dictionary").write_text("$INCLUDE /usr/share/freeradius/dictionary\n")
        self.log = self.folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [program, "-d", str(self.folder), "-fl", "stdout"], stdout=log, stderr=subprocess.STDOUT
            )
        for _ in range(300):
            if "Ready to process requests" in self.log.read_text(errors="replace"):
                return
            assert self.process.poll() is None, self.log.read_text(errors="replace")
            time.sleep(0.02)
        raise AssertionError(self.log.read_text(errors="replace"))

    def discard(self) -> None:
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


_USERS = f"""
User Cleartext-Password := "{PASSWORD}"
    Filter-Id = "staff",
    Filter-Id += "engineers",
    Class = "user@example.org",
    Connect-Info = "User Example"

long Cleartext-Password := "0123456789012345678901234567890123456789"

USER Cleartext-Password := "{PASSWORD}"
    User-Name = "User"

expired Auth-Type := Reject
    MS-CHAP-Error = "\\001E=648 R=0 V=3"

token Cleartext-Password := "{PASSWORD}"
"""
_CONFIG = """
prefix = /usr
libdir = /usr/lib/freeradius
logdir = FOLDER
raddbdir = FOLDER
run_dir = FOLDER
pidfile = FOLDER/pid
max_request_time = 30
cleanup_delay = 2
max_requests = 1024
security {
    max_attributes = 200
    reject_delay = 0
    status_server = no
}
proxy_requests = no
client test {
    ipaddr = 127.0.0.1
    secret = "shared by both"
    require_message_authenticator = yes
}
thread pool {
    start_servers = 1
    max_servers = 2
    min_spare_servers = 1
    max_spare_servers = 1
    max_requests_per_server = 0
}
modules {
    pap {
    }
    chap {
    }
    mschap {
        use_mppe = no
    }
    files {
        filename = FOLDER/users
    }
    always reject {
        rcode = reject
    }
    always handled {
        rcode = handled
    }
}
server default {
    listen {
        type = auth
        ipaddr = 127.0.0.1
        port = PORT
    }
    authorize {
        if (User-Name == "token") {
            if (!State) {
                update control {
                    Auth-Type := Ask
                }
            }
            elsif (State == 0x0102030405060708 && User-Password == "123456") {
                update control {
                    Auth-Type := Accept
                }
            }
            else {
                reject
            }
        }
        else {
            chap
            mschap
            files
            pap
        }
    }
    authenticate {
        Auth-Type PAP {
            pap
        }
        Auth-Type CHAP {
            chap
        }
        Auth-Type MS-CHAP {
            mschap
        }
        Auth-Type Ask {
            update control {
                Response-Packet-Type := Access-Challenge
            }
            update reply {
                Reply-Message := "Enter the code on your token"
                State := 0x0102030405060708
            }
            handled
        }
    }
    post-auth {
        SIGN
        Post-Auth-Type REJECT {
            SIGN
        }
        Post-Auth-Type Challenge {
            SIGN
        }
    }
}
"""
