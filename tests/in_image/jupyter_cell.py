"""Run a cell in a kernel of a Jupyter server, by its own protocol; run by an image's Python.

The server's address and its token come as JSON on standard input; what the cell prints goes to stdout.
"""

import json
import sys
import urllib.request
import uuid

import websocket

CELL = "import torch; print('sum', float(torch.arange(5).sum()), torch.__version__)"


def main() -> None:
    asked = json.load(sys.stdin)
    host, headers = f"127.0.0.1:{asked['port']}", {"Authorization": f"token {asked['token']}"}
    request = urllib.request.Request(f"http://{host}/api/kernels", data=b"{}", headers=headers, method="POST")
    with urllib.request.urlopen(request, timeout=60) as answer:
        kernel = json.load(answer)["id"]
    lines = [f"{name}: {value}" for name, value in headers.items()]
    channel = websocket.create_connection(f"ws://{host}/api/kernels/{kernel}/channels", header=lines, timeout=120)
    header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "session": uuid.uuid4().hex, "username": ""}
    content = {"code": CELL, "silent": False, "store_history": True, "allow_stdin": False, "stop_on_error": True}
    message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
    channel.send(json.dumps(message))
    while True:
        reply = json.loads(channel.recv())
        if reply["parent_header"].get("msg_id") != header["msg_id"]:
            continue
        if reply["msg_type"] == "stream":
            sys.stdout.write(reply["content"]["text"])
        elif reply["msg_type"] == "error":
            sys.exit("\n".join(reply["content"]["traceback"]))
        elif reply["msg_type"] == "status" and reply["content"]["execution_state"] == "idle":
            return


main()
